"""What each command of the command line takes, in a file of its name. Importing is light."""
