package auth

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	tokenA = "aaaaaaaaaaaaaaaa"
	tokenB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestParseTokens(t *testing.T) {
	t.Parallel()
	many := make([]string, MaxTokens+1)
	for i := range many {
		many[i] = tokenA + strings.Repeat("x", i)
	}
	tests := []struct {
		name  string
		input string
		want  []string
		err   string // part of the error
	}{
		{name: "one", input: tokenA, want: []string{tokenA}},
		{name: "trailing newline", input: tokenA + "\n", want: []string{tokenA}},
		{name: "commas", input: tokenA + "," + tokenB, want: []string{tokenA, tokenB}},
		{name: "lines with blanks and comments", input: "# new\r\n" + tokenA + "\r\n\r\n  # old, soon gone\n\t" + tokenB + " \n,,\n", want: []string{tokenA, tokenB}},
		{name: "repeated", input: tokenA + "\n" + tokenA, want: []string{tokenA}},
		{name: "hash inside", input: "aaaaaaaa#aaaaaaaa", want: []string{"aaaaaaaa#aaaaaaaa"}},
		{name: "longest", input: strings.Repeat("x", MaxToken), want: []string{strings.Repeat("x", MaxToken)}},
		{name: "most", input: strings.Join(many[:MaxTokens], ","), want: many[:MaxTokens]},

		{name: "empty", input: "", err: "holds no token"},
		{name: "blank", input: " \n , \r\n", err: "holds no token"},
		{name: "only a comment", input: "#" + tokenA, err: "holds no token"},
		{name: "short", input: "aaaaaaaaaaaaaaa", err: "token 1 has 15 bytes, fewer than 16"},
		{name: "short among good ones", input: tokenA + ",short," + tokenB, err: "token 2 has 5 bytes"},
		{name: "every fault", input: "short," + tokenA + ",with space in it all", err: "token 3 contains a space"},
		{name: "too long", input: strings.Repeat("x", MaxToken+1), err: "more than 4096"},
		{name: "control character", input: tokenA + "\x00" + tokenB, err: "control character"},
		{name: "not ascii", input: tokenA + "ä", err: "outside ASCII"},
		{name: "comment beside a token", input: tokenA + ",#" + tokenB, err: "token 2 begins with #"},
		{name: "too many", input: strings.Join(many, "\n"), err: "token 65 is one too many"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseTokens(tt.input)
			if tt.err == "" {
				if err != nil || !slices.Equal(got, tt.want) {
					t.Fatalf("ParseTokens = %q, %v, want %q", got, err, tt.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v does not contain %q", err, tt.err)
			}
			if got != nil {
				t.Fatalf("tokens beside an error: %q", got)
			}
		})
	}
	if _, err := ParseTokens(""); !errors.Is(err, ErrNoToken) {
		t.Errorf("no token: %v is not ErrNoToken", err)
	}
}

// The whole text of an error of ParseTokens is known, so nothing of the input is in it but counts.
var tokenError = regexp.MustCompile(`^(` + regexp.QuoteMeta(ErrNoToken.Error()) + `|` +
	`token \d+ (has \d+ bytes, (fewer than 16, and could be guessed: make one with: openssl rand -hex 32|more than 4096)|` +
	`begins with #: a comment stands on a line of its own|` +
	`contains a space, a control character or a character outside ASCII, which cannot travel in a header: make one with: openssl rand -hex 32|` +
	`is one too many: at most 64 may be valid at once))$`)

func FuzzParseTokens(f *testing.F) {
	for _, s := range []string{"", tokenA, tokenA + "," + tokenB, "#c\n" + tokenA, "short", "a b", "\x00\xff", tokenA + "\r\n" + tokenB} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tokens, err := ParseTokens(s)
		if err != nil {
			if tokens != nil {
				t.Fatalf("tokens beside the error %v", err)
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !tokenError.MatchString(line) {
					t.Fatalf("unexpected error %q", line)
				}
			}
			return
		}
		if len(tokens) == 0 || len(tokens) > MaxTokens {
			t.Fatalf("%d tokens", len(tokens))
		}
		for _, token := range tokens {
			if len(token) < MinToken || len(token) > MaxToken || strings.ContainsAny(token, ", \t\r\n") || !strings.Contains(s, token) {
				t.Fatalf("bad token %q from %q", token, s)
			}
		}
		if again, err := ParseTokens(strings.Join(tokens, "\n")); err != nil || !slices.Equal(again, tokens) {
			t.Fatalf("round trip: %q became %q, %v", tokens, again, err)
		}
	})
}

func TestTokensValid(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		list  []string
		token string
		want  bool
	}{
		{name: "only one", list: []string{tokenA}, token: tokenA, want: true},
		{name: "first", list: []string{tokenA, tokenB}, token: tokenA, want: true},
		{name: "last", list: []string{tokenA, tokenB}, token: tokenB, want: true},
		{name: "listed twice", list: []string{tokenA, tokenA}, token: tokenA, want: true},
		{name: "none", list: nil, token: tokenA},
		{name: "none, empty token", list: nil, token: ""},
		{name: "empty token", list: []string{tokenA, ""}, token: ""},
		{name: "prefix", list: []string{tokenB}, token: tokenB[:16]},
		{name: "longer", list: []string{tokenA}, token: tokenA + "a"},
		{name: "other case", list: []string{tokenA}, token: strings.ToUpper(tokenA)},
		{name: "both at once", list: []string{tokenA, tokenB}, token: tokenA + "," + tokenB},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := NewTokens(tt.list).Valid(tt.token); got != tt.want {
				t.Fatalf("Valid = %v, want %v", got, tt.want)
			}
		})
	}
	if new(Tokens).Valid(tokenA) || new(Tokens).List() != nil {
		t.Error("the zero value is not empty")
	}
}

func TestTokensListIsACopy(t *testing.T) {
	t.Parallel()
	list := []string{tokenA}
	tokens := NewTokens(list)
	list[0] = tokenB
	tokens.List()[0] = tokenB
	if got := tokens.List(); !slices.Equal(got, []string{tokenA}) || tokens.Valid(tokenB) {
		t.Fatalf("List = %q", got)
	}
}

// A rotation never leaves a moment in which a token that is on both lists is refused.
func TestTokensRotation(t *testing.T) {
	t.Parallel()
	tokens := NewTokens([]string{tokenA})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if !tokens.Valid(tokenA) {
					t.Error("refused in the middle of a rotation")
					return
				}
			}
		})
	}
	for range 200 {
		tokens.Set([]string{tokenB, tokenA})
		tokens.Set([]string{tokenA})
	}
	wg.Wait()
	tokens.Set([]string{tokenB})
	if tokens.Valid(tokenA) || !tokens.Valid(tokenB) {
		t.Error("rotation did not take effect")
	}
}

func BenchmarkValid(b *testing.B) {
	tokens := NewTokens([]string{tokenA, tokenB})
	b.ReportAllocs()
	for b.Loop() {
		tokens.Valid(tokenB)
	}
}
