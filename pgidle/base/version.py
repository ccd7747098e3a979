"""The version of this code. What is installed may be newer than what runs, and looking it up would cost memory."""

VERSION = "0.1.0"
