"""Stand-in for mjrl.envs; see `mujoco_env`."""
