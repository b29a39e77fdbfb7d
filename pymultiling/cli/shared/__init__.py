"""What commands share, a concern a file. Importing any of it is light."""
