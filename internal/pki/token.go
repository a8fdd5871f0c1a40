package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const (
	tokenPrefix = "had1"
	tokenIDLen  = 12 // hex digits
	secretLen   = 32 // hex digits: 128 bit
	fpLen       = 2 * sha256.Size
)

// ErrToken is what every refused join token wraps.
var ErrToken = errors.New("join token not valid")

// Token lets one new node in. It carries the CA's fingerprint, so that the new node can tell the cluster from an impostor
// before it says the secret.
type Token struct {
	ID          string // 12 hex digits; names the token in the replicated state
	Secret      string // 32 hex digits
	Fingerprint string // of the cluster CA, 64 hex digits
}

// NewToken draws a token for the cluster with the given CA fingerprint.
func NewToken(fingerprint string) Token {
	b := make([]byte, (tokenIDLen+secretLen)/2)
	rand.Read(b)
	s := hex.EncodeToString(b)
	return Token{ID: s[:tokenIDLen], Secret: s[tokenIDLen:], Fingerprint: fingerprint}
}

// String is the form that people copy: had1.ID.SECRET.FINGERPRINT. It contains the secret; never log it.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, t.ID, t.Secret, t.Fingerprint}, ".")
}

// ParseToken reads what String made; surrounding blanks are ignored. Errors wrap ErrToken and never repeat the secret.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	parts := strings.Split(s, ".")
	if parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("%w: it must begin with %q: copy the whole token that `hactl token` printed", ErrToken, tokenPrefix+".")
	}
	if len(parts) != 4 {
		return Token{}, fmt.Errorf("%w: it has %d parts, wanted 4: copy the whole token that `hactl token` printed", ErrToken, len(parts))
	}
	t := Token{ID: parts[1], Secret: parts[2], Fingerprint: parts[3]}
	for _, p := range []struct {
		name, s string
		n       int
	}{{"id", t.ID, tokenIDLen}, {"secret", t.Secret, secretLen}, {"CA fingerprint", t.Fingerprint, fpLen}} {
		if len(p.s) != p.n || strings.Trim(p.s, "0123456789abcdef") != "" {
			return Token{}, fmt.Errorf("%w: its %s is not %d lower-case hex digits: copy it again, or make a new one with `hactl token`",
				ErrToken, p.name, p.n)
		}
	}
	return t, nil
}

// Hash is the hex SHA-256 of the secret, which is all that the cluster keeps. The secret has 128 random bits, so a
// plain hash resists guessing.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(t.Secret))
	return hex.EncodeToString(sum[:])
}

// Matches reports in constant time whether the secret has the given hash.
func (t Token) Matches(hash string) bool {
	return subtle.ConstantTimeCompare([]byte(t.Hash()), []byte(hash)) == 1
}
