"""Stand-in for the package mjrl; see `mjrl.envs.mujoco_env`."""
