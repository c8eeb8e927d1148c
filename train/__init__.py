"""How the models learn and are judged. Imports `zoo`, never `serving`."""

import os

# TensorFlow reads this when it is imported: its start-up chatter is nothing a user can act on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
