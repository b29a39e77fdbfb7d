"""What several commands share, one subject per module. Importing any of these modules is light."""
