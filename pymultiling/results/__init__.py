"""What a run leaves behind: its record, its folder, tables and plots."""
