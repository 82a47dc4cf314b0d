"""The demo: the paper's Table 1 on the embedded model.  A brand's mark is renamed; what follows, what stays, and back."""
