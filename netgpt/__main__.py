"""`python -m netgpt`: the command of this tree, whether or not it is installed."""

from netgpt.cluster.cli import main

if __name__ == "__main__":
    main()
