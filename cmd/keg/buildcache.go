package main

import (
	"encoding/csv"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/imagestore"
)

// cacheFlags say where else what RUN made is looked for and kept, in the words of docker buildx.
type cacheFlags struct {
	from []string
	to   []string
}

func (f *cacheFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.from, "cache-from", nil, "take what RUN made from there: REF, type=registry,ref=REF or type=local,src=DIR; may be given several times")
	c.Flags().StringArrayVar(&f.to, "cache-to", nil, "keep what RUN made there: type=registry,ref=REF or type=local,dest=DIR, with mode=min (the image's own stages) or mode=max (all)")
}

// request puts the flags into a request.
func (f *cacheFlags) request(r *builder.Request) error {
	for _, text := range f.from {
		e, err := parseCache("--cache-from", text, "src")
		if err != nil {
			return err
		}
		r.CacheFrom = append(r.CacheFrom, e.CachePlace)
	}
	for _, text := range f.to {
		e, err := parseCache("--cache-to", text, "dest")
		if err != nil {
			return err
		}
		r.CacheTo = append(r.CacheTo, e)
	}
	return nil
}

// parseCache reads one value of a flag; dir is what a directory is called there.
func parseCache(flag, text, dir string) (builder.CacheExport, error) {
	var e builder.CacheExport
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return e, usageErrorf("%s %q: %s", flag, text, err)
	}
	if len(fields) == 1 && !strings.Contains(text, "=") {
		fields = []string{"type=registry", "ref=" + text}
	}
	values := map[string]string{}
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		if !ok || v == "" {
			return e, usageErrorf("%s %q: %q is not KEY=VALUE", flag, text, field)
		}
		if _, twice := values[k]; twice {
			return e, usageErrorf("%s %q has %s twice", flag, text, k)
		}
		values[k] = v
	}
	take := func(key string) string {
		v := values[key]
		delete(values, key)
		return v
	}
	switch typ := take("type"); typ {
	case "registry":
		ref := take("ref")
		if ref == "" {
			return e, usageErrorf("%s %q has no ref; write type=registry,ref=REF", flag, text)
		}
		if e.Ref, err = imagestore.ParseName(ref); err != nil {
			return e, usageErrorf("%s %q: %s", flag, text, err)
		}
	case "local":
		if e.Dir, e.Tag = take(dir), take("tag"); e.Dir == "" {
			return e, usageErrorf("%s %q has no %s; write type=local,%s=DIR", flag, text, dir, dir)
		}
	case "inline":
		return e, usageErrorf("%s type=inline: a cluster image has no cache inside of it, so that its digest does not depend on how it was built; write type=registry,ref=REF with a name of its own", flag)
	case "":
		return e, usageErrorf("%s %q has no type; write type=registry,ref=REF or type=local,%s=DIR", flag, text, dir)
	default:
		return e, usageErrorf("%s: type %q is neither registry nor local", flag, typ)
	}
	if flag == "--cache-to" {
		switch mode := take("mode"); mode {
		case "", "min":
		case "max":
			e.All = true
		default:
			return e, usageErrorf("%s: mode %q is neither min nor max", flag, mode)
		}
		if e.IgnoreError, err = boolean(take("ignore-error"), false); err != nil {
			return e, usageErrorf("%s: ignore-error: %s", flag, err)
		}
		for _, always := range []string{"image-manifest", "oci-mediatypes"} { // it is one, and has them
			if is, err := boolean(take(always), true); err != nil || !is {
				return e, usageErrorf("%s: %s is always true", flag, always)
			}
		}
	}
	for k := range values {
		return e, usageErrorf("%s %q: keg does not know %s", flag, text, k)
	}
	return e, nil
}

func boolean(text string, unset bool) (bool, error) {
	if text == "" {
		return unset, nil
	}
	return strconv.ParseBool(text)
}
