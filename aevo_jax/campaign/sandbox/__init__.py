"""The sandbox confines a worker with Landlock and seccomp."""
