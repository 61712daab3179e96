"""Files of other tools that describe a search: the Smart Democratization Advisor's YAML and SigOpt's `experiment.yml`.

`read` turns a file into a `Search`, and `write` a `Search` into a file. What a recipe cannot express is refused, and what is
read differently from how it is written is noted, by name.
"""
