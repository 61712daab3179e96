"""When and where: definitions, deployments, jobs, schedules, sensors, and the command that replays days in one process."""
