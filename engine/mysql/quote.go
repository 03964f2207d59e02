package mysql

import (
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// quoteName quotes an identifier.
func quoteName(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// quote makes a string literal that means the same in every sql_mode and
// whatever the session's character set is, since a migration can have changed
// both.
func quote(s string) string {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '\\' {
			return "_utf8mb4 X'" + hex.EncodeToString([]byte(s)) + "'"
		}
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// truncate cuts text to what a column of that many characters holds.
func truncate(text string, characters int) string {
	text = strings.ToValidUTF8(text, "�")
	if utf8.RuneCountInString(text) > characters {
		text = string([]rune(text)[:characters])
	}
	return text
}
