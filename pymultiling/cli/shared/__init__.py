"""Code that several commands share, one subject per module. Importing a module loads no heavy package."""
