"""pgidle's version, for those who cannot afford to look up the installed package."""

VERSION = "0.1.0"
