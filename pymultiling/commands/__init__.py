"""The command line's commands: from files to a folder of results, each in a file of its name."""
