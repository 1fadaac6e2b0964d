package main

import (
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/clusterimage/keg/imagestore"
)

// parseName reads an image name from the command line.
func parseName(s string) (name.Reference, error) {
	ref, err := imagestore.ParseName(s)
	if err != nil {
		return nil, usageErrorf("%.300q is no image name: write [REGISTRY/]PATH[:TAG] in lower case, such as reg.example.com/shop:v1", s)
	}
	return ref, nil
}

// parseTag reads a name that something can be stored under: one with a tag, not a digest.
func parseTag(s string) (name.Reference, error) {
	ref, err := parseName(s)
	if err != nil {
		return nil, err
	}
	if _, ok := ref.(name.Digest); ok {
		return nil, usageErrorf("%q names a digest; a name with a tag is wanted, such as reg.example.com/shop:v1", s)
	}
	return ref, nil
}

// fullName is the form in which the store knows a name.
func fullName(ref name.Reference) string { return imagestore.FullName(ref) }
