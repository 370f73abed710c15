"""What is seen from outside: observers of jobs, one sink a file."""
