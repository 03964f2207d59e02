package sqlsplit

import "strings"

// setDelimiter obeys the DELIMITER command at t: the rest of its line, to the
// first space or within quotes, is the new delimiter (MySQL manual, "mysql
// Client Commands").
func (s *splitter) setDelimiter(t token) error {
	s.reset()
	s.pos = s.lineEnd(t.pos)
	arg := strings.Trim(s.src[t.end:s.pos], " \t\r")
	if arg != "" && strings.IndexByte("'\"`", arg[0]) >= 0 {
		end := strings.IndexByte(arg[1:], arg[0])
		if end < 0 {
			return errorAt(s.src, t.pos, "DELIMITER with an unterminated quote")
		}
		arg = arg[1 : 1+end]
	} else if i := strings.IndexAny(arg, " \t"); i >= 0 {
		arg = arg[:i]
	}
	switch {
	case arg == "":
		return errorAt(s.src, t.pos, "DELIMITER without a delimiter: give a string, such as //")
	case strings.Contains(arg, `\`):
		return errorAt(s.src, t.pos, "DELIMITER cannot contain a backslash")
	case arg == ";":
		arg = ""
	}
	s.delim = arg
	return nil
}

// endsStatement tells whether the word DELIMITER at t, in the middle of a
// statement, is the client's command: it begins a line of which the rest is
// nothing but punctuation. Otherwise it is a name, say of a column.
func (s *splitter) endsStatement(t token) bool {
	if !s.startsLine(t.pos) {
		return false
	}
	rest := strings.Trim(s.src[t.end:s.lineEnd(t.end)], " \t\r")
	return rest != "" && strings.Trim(rest, ";/$|&#@!%^~") == ""
}

// clientWord tells whether a statement that begins with w is a command of the
// mysql client (manual, "mysql Client Commands"). USE and HELP are left out:
// they are statements as well.
func clientWord(w string) bool {
	switch asciiUpper(w) {
	case "CHARSET", "CLEAR", "CONNECT", "EDIT", "EGO", "EXIT", "GO", "NOPAGER", "NOTEE", "NOWARNING", "PAGER", "PRINT",
		"PROMPT", "QUIT", "REHASH", "RESETCONNECTION", "SOURCE", "STATUS", "SYSTEM", "TEE", "WARNINGS":
		return true
	}
	return false
}
