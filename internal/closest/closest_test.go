package closest_test

import (
	"strings"
	"testing"

	"github.com/skeinhq/skein/internal/closest"
)

func TestNearest(t *testing.T) {
	names := []string{"acme", "acme-eu", "acne", "globex", "initech", "Größe", "a", "ab"}
	for word, want := range map[string]string{
		"acme":    "acme acme-eu acne", // in that order
		"ACME":    "acme acme-eu acne",
		"amce":    "acme",
		"glob":    "globex",
		"intech":  "initech",
		"grösse":  "Größe",
		"x":       "",
		"AB":      "ab a",
		"zzzzzzz": "",
		"":        "",
	} {
		finder := closest.New(word, 3)
		for _, name := range names {
			finder.Show(name)
		}
		if got := strings.Join(finder.Names(), " "); got != want {
			t.Errorf("nearest to %q: %q, want %q", word, got, want)
		}
	}
	if got := closest.To("intech", names); got != "initech" {
		t.Errorf("nearest to intech: %q", got)
	}
	if got := closest.To("x", names); got != "" {
		t.Errorf("nearest to x: %q, want none", got)
	}
}
