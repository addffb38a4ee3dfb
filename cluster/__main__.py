"""`python -m cluster`: the command `netgpt` of this tree, whether or not it is installed."""

from cluster.cli import main

if __name__ == "__main__":
    main()
