"""The version of this code. What is installed may be newer than what runs: its metadata cannot tell."""

VERSION = "0.1.0"
