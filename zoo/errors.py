"""The one exception for mistakes a person can mend."""


class UserError(Exception):
    """Bad input from outside: a flag, config field, file, data set, preset or checkpoint.

    The message is one line that names the offending value, says what was expected and what to do
    about it. Every binary prints it as `error: <message>` and exits with status 2, without a traceback.
    """
