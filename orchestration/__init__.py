"""Dagster definitions, deployments, jobs, schedules and sensors, and the command that replays days in one process."""
