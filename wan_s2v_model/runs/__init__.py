"""What is kept of a run, and how it goes on: change here what is stored, compared and read again."""
