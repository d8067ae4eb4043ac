"""What a job takes of time, memory and disk: change here what is expected, refused and advised."""
