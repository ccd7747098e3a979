"""`python -m pgidle`."""

from pgidle.boot import main

if __name__ == "__main__":
    main()
