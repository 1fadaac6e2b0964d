package remote_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime/remote"
)

func TestParseHosts(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"  ":                                 "",
		"10.0.0.1":                           "10.0.0.1",
		"10.0.0.1, 10.0.0.3":                 "10.0.0.1 10.0.0.3",
		"10.0.0.1:2222,10.0.0.1:2223":        "10.0.0.1:2222 10.0.0.1:2223",
		"192.168.0.2-192.168.0.5":            "192.168.0.2 192.168.0.3 192.168.0.4 192.168.0.5",
		"10.0.0.254-10.0.1.1:22":             "10.0.0.254:22 10.0.0.255:22 10.0.1.0:22 10.0.1.1:22",
		"10.0.0.7-10.0.0.7":                  "10.0.0.7",
		"192.168.0.0/29":                     "192.168.0.1 192.168.0.2 192.168.0.3 192.168.0.4 192.168.0.5 192.168.0.6",
		"192.168.0.0/30:2222":                "192.168.0.1:2222 192.168.0.2:2222",
		"192.168.0.2/31":                     "192.168.0.2 192.168.0.3",
		"192.168.0.2/32":                     "192.168.0.2",
		"[fd00::1]":                          "[fd00::1]",
		"[fd00::1]:2222":                     "[fd00::1]:2222",
		"[fd00:0::000f]-[fd00::11]:22":       "[fd00::f]:22 [fd00::10]:22 [fd00::11]:22",
		"[fd00::]/126":                       "[fd00::] [fd00::1] [fd00::2] [fd00::3]",
		"[::ffff:10.0.0.1]":                  "10.0.0.1",
		"node-1,Node-2.Example.com.:22,3com": "node-1 node-2.example.com:22 3com",
		"10.0.0.0/30,10.0.0.9,10.0.1.1-10.0.1.2,x": "10.0.0.1 10.0.0.2 10.0.0.9 10.0.1.1 10.0.1.2 x",
		"255.255.255.254-255.255.255.255":          "255.255.255.254 255.255.255.255",
	} {
		hosts, err := remote.ParseHosts(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		var got []string
		for _, h := range hosts {
			got = append(got, h.String())
		}
		if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
	hosts, err := remote.ParseHosts("10.0.0.0-10.0.3.255")
	if err != nil || len(hosts) != 1024 {
		t.Errorf("%d hosts, %v", len(hosts), err)
	}
}

func TestParseHostsFails(t *testing.T) {
	for text, want := range map[string][]string{
		"10.0.0.1,,10.0.0.2":                 {"a piece is empty", "extra comma"},
		"10.0.0.1,":                          {"a piece is empty"},
		"10.0.0.1,10.0.0.1":                  {"10.0.0.1 is named twice"},
		"10.0.0.1-10.0.0.4,10.0.0.3":         {"10.0.0.3 is named twice", `"10.0.0.1-10.0.0.4"`},
		"Node,node":                          {"node is named twice"},
		"10.0.0.5-10.0.0.2":                  {"backwards", "write 10.0.0.2-10.0.0.5"},
		"10.0.0.1-10.0.0.999":                {`"10.0.0.999"`, "FIRST-LAST"},
		"10.0.0.1-5":                         {`"5"`, "FIRST-LAST"},
		"10.0.0.1-":                          {"FIRST-LAST"},
		"10.0.0.1-10.0.0.2-10.0.0.3":         {"FIRST-LAST"},
		"10.0.0.1-[fd00::1]":                 {"IPv4 to IPv6"},
		"10.0.0.256":                         {"neither an IP address nor a host name"},
		"10.0.0":                             {"neither an IP address nor a host name"},
		"10.0.0.0/8":                         {"more than 1024", "split"},
		"10.0.0.0/22,10.1.0.1-10.1.0.9":      {"more than 1024"},
		"10.0.0.0/22,10.1.0.1,10.1.0.2,node": {"more than 1024"},
		"0.0.0.0-255.255.255.255":            {"more than 1024"},
		"[::]/0":                             {"more than 1024"},
		"10.0.0.0/33":                        {`"33"`, "0 to 32"},
		"10.0.0.0/x":                         {`"x"`},
		"10.0.0.0/":                          {`""`},
		"10.0.0.5/29":                        {"10.0.0.0/29", "10.0.0.5 for one host"},
		"fd00::1":                            {"brackets", "[fd00::1]"},
		"fd00::1-fd00::3":                    {"brackets"},
		"[10.0.0.1]":                         {"brackets are for IPv6"},
		"[fd00::1":                           {"brackets"},
		"[fe80::1%eth0]":                     {"zone"},
		"10.0.0.1:0":                         {`"0" is not a port`, "1 to 65535"},
		"10.0.0.1:70000":                     {"is not a port"},
		"10.0.0.1:":                          {"is not a port"},
		"10.0.0.1:ssh":                       {`"ssh" is not a port`},
		"a b":                                {"neither"},
		"-node":                              {"neither"},
		"root@10.0.0.1":                      {"neither"},
		strings.Repeat("a", 64) + ".com":     {"neither"},
		"http://x":                           {"is not a port"},
	} {
		hosts, err := remote.ParseHosts(text)
		if err == nil {
			t.Errorf("%q gave %v", text, hosts)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %q lacks %q", text, err, w)
			}
		}
	}
}

func FuzzParseHosts(f *testing.F) {
	for _, seed := range []string{"10.0.0.1-10.0.0.5:22,node,[fd00::]/120", "192.168.0.0/29", "[::1]-[::9]", "a,,b", "1-2", "[::ffff:1.2.3.4]/97", ":::", "]:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hosts, err := remote.ParseHosts(text)
		if err != nil {
			return
		}
		if len(hosts) > 1024 {
			t.Errorf("%d hosts", len(hosts))
		}
		var again []string
		for _, h := range hosts {
			again = append(again, h.String())
		}
		twice, err := remote.ParseHosts(strings.Join(again, ","))
		if diff := cmp.Diff(hosts, twice); diff != "" || err != nil {
			t.Errorf("%q: %v: %s", text, err, diff)
		}
	})
}
