def two_nights(study, folder):
    return [], []
