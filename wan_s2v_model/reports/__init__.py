"""Words and pictures about a plan or a video: change here what people are shown, never what is made."""
