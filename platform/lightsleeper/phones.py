"""The phone inventory that text, corpora and models share: 39 ARPAbet phones, stress removed.

Index 0 is the CTC blank and the padding value; phones take 1..39, so a CTC output has 40 classes.
"""

PHONES: tuple[str, ...] = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
BLANK = 0
PHONE_IDS: dict[str, int] = {phone: index for index, phone in enumerate(PHONES, start=1)}
CLASSES = len(PHONES) + 1  # with blank
