"""What a distance means: the probability of a match, and the threshold of one."""
