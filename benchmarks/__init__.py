"""What prints the figures this project states; run by hand, never imported by the package."""
