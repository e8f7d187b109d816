"""`python -m memlib`: the command line."""

from memlib.runs.cli import main

if __name__ == "__main__":
    main(prog_name="memlib")
