"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and how to mend it.

    Raised at the boundaries (arguments, files, folders); `nas_osr.cli` alone turns it into one line on stderr and exit
    code 2.
    """
