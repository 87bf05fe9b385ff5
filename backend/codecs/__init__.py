"""Label Studio's formats, one file each, to and from the values of `calico`. Pure: no network, no files, no torch."""
