"""One file per story; the tasks do the work, the deployments say when."""
