package tcp

import (
	"slices"
	"strings"
	"testing"
)

func TestPorts(t *testing.T) {
	for _, c := range []struct {
		text, want string // its canonical form
		faults     []string
	}{
		{"1024-65535", "1024-65535", nil},
		{"22", "22", nil},
		{"2222, 8000-8999\n9000\t9001", "2222,8000-8999,9000,9001", nil},
		{"5-5", "5", nil},
		{"1,65535", "1,65535", nil},
		{",,22,", "22", nil},
		{"0", "", []string{`"0"`}},
		{"65536", "", []string{`"65536"`}},
		{"9-8", "", []string{`"9-8"`}},
		{"-", "", []string{`"-"`}},
		{"1-", "", []string{`"1-"`}},
		{"-5", "", []string{`"-5"`}},
		{"1-2-3", "", []string{`"1-2-3"`}},
		{"+22", "", []string{`"+22"`}},
		{"022", "", []string{`"022"`}},
		{"all", "", []string{`"all"`}},
		{"99999999999999999999", "", []string{`"99999999999999999999"`}},
		{"22,ssh,8000-7000", "22", []string{`"ssh"`, `"8000-7000"`}},
		{"", "", []string{"no port"}},
		{" , ", "", []string{"no port"}},
	} {
		t.Run(c.text, func(t *testing.T) {
			var p Ports
			err := p.Decode(c.text)
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(c.faults) {
				t.Fatalf("faults %q, want %q", got, c.faults)
			}
			for i, want := range c.faults {
				if !strings.HasPrefix(got[i], want) || !strings.Contains(got[i], "such as 2222 or 8000-8999") {
					t.Errorf("fault %s, want %s", got[i], want)
				}
			}
			if p.String() != c.want {
				t.Errorf("got %s, want %s", p, c.want)
			}
		})
	}
}

func TestContains(t *testing.T) {
	p := Ports{{22, 22}, {8000, 8999}}
	for port, want := range map[int]bool{0: false, 21: false, 22: true, 23: false, 7999: false, 8000: true, 8500: true, 8999: true, 9000: false, 65536: false} {
		if p.Contains(port) != want {
			t.Errorf("%d is allowed: %v", port, !want)
		}
	}
	if (Ports{}).Contains(22) || (Ports{}).first() != 0 || p.first() != 22 {
		t.Error("no ports")
	}
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"1024-65535", "22,8000-8999", "0", "-", "9-8", "1-2-3", "\n1\t2 3", "65536", "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var p, again Ports
		if p.Decode(text) != nil {
			return
		}
		for _, r := range p {
			if r.First < 1 || r.Last > 65535 || r.First > r.Last || !p.Contains(r.First) || !p.Contains(r.Last) {
				t.Errorf("%q: range %+v", text, r)
			}
		}
		if p.Contains(0) || p.Contains(65536) || p.Contains(-1) {
			t.Errorf("%q allows what is no port", text)
		}
		if err := again.Decode(p.String()); err != nil || !slices.Equal(p, again) {
			t.Errorf("%q: %s reads as %s, %v", text, p, again, err)
		}
	})
}
