from ml.advisor.profiles.profile import QUANTILES, Cross, DenseProfile, FeatureProfile, SparseProfile

PROFILE = FeatureProfile(
    dataset="shop",
    days=("2026-01-01", "2026-01-02"),
    rows=10,
    positives=3,
    label_rate_by_hour=(0.5, *[None] * 22, 0.0),
    bytes=123,
    dense={"price": DenseProfile(0.1, 2.5, 1.0, dict(zip(QUANTILES, range(9), strict=True)), True, 7)},
    sparse={"user": SparseProfile(3, 0.0, (2, 3), 10, 0.0, 1.0, 0.5, (1, 2), None, 0.25)},
    crosses=(Cross(("user", "item"), 0.01, 9),),
    drift={"user": None, "price": 0.05},
)


def test_json_holds_the_whole_profile() -> None:
    assert FeatureProfile.from_json(PROFILE.to_json()) == PROFILE


def test_label_rate_of_no_rows_is_none() -> None:
    assert PROFILE.label_rate == 0.3
    assert FeatureProfile("shop", (), 0, 0).label_rate is None
