"""What a run needs before it is started: memory, disk, network and time of each stage."""
