"""Sound and pictures in and out of files and programs: change here what can be read, written or spoken."""
