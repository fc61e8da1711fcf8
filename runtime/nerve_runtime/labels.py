"""What the value of a label means, wherever labels are made, stored or drawn."""

IGNORE_LABEL = 255
"""No label: the frame's scores were not finite."""
CLASSES_LIMIT = 254
"""Most classes, background included: labels are uint8, 255 is taken, and one more is kept free."""
BACKGROUND_NAME = "background"
"""Name of class 0 where the vocabulary has background words."""
