"""What is measured, in folders by question; README.md has the commands."""
