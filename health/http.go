package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
)

// maxBody is how much of a response is read, in bytes; maxHeader the same for its header.
const (
	maxBody   = 64 << 10
	maxHeader = 64 << 10
)

// httpProbe is a Spec with its expressions compiled.
type httpProbe struct {
	spec    Spec
	url     *url.URL
	body    *regexp.Regexp // nil: any
	headers map[string]*regexp.Regexp
	names   []string // keys of headers, sorted: the same fault is named at each check
}

// newHTTP asks for a page. Redirects are answers, not followed; there is no proxy and no kept connection.
func newHTTP(s Spec) (asker, error) {
	p := &httpProbe{spec: s, headers: map[string]*regexp.Regexp{}}
	var errs []error
	u, err := url.Parse(s.URL)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("url: %w", err))
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		errs = append(errs, fmt.Errorf("url %q: want http://HOST or https://HOST", s.URL))
	}
	p.url = u
	if s.Body != "" {
		if p.body, err = regexp.Compile(s.Body); err != nil {
			errs = append(errs, fmt.Errorf("body: %w", err))
		}
	}
	for name, expr := range s.WantHeader {
		if p.headers[name], err = regexp.Compile(expr); err != nil {
			errs = append(errs, fmt.Errorf("wanted header %s: %w", name, err))
		}
		p.names = append(p.names, name)
	}
	slices.Sort(p.names)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p.ask, nil
}

func (p *httpProbe) ask(ctx context.Context) answer {
	t, err := p.transport()
	if err != nil {
		return say(Skip, "%v", err) // our own CA file
	}
	defer t.CloseIdleConnections()
	req, err := p.request(ctx)
	if err != nil {
		return say(Skip, "%v", err)
	}
	// RoundTrip and not Client.Do: no redirects, no cookies, one request.
	resp, err := t.RoundTrip(req)
	if err != nil {
		return judge(err)
	}
	defer resp.Body.Close()
	return p.judge(resp)
}

// transport is new for each check: a connection kept from the last check can outlive the service's ability to accept
// new ones, and a CA file may have been replaced.
func (p *httpProbe) transport() (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.spec.ServerName}
	if p.spec.CAFile != "" {
		pem, err := os.ReadFile(p.spec.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading the CA file %s: no certificate in it", p.spec.CAFile)
		}
	}
	return &http.Transport{
		Proxy: nil, // never from the environment
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return dial(ctx, host, port)
		},
		TLSClientConfig:        conf,
		DisableKeepAlives:      true,
		DisableCompression:     true, // 64 KiB read are 64 KiB at most
		MaxResponseHeaderBytes: maxHeader,
	}, nil
}

func (p *httpProbe) request(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "had-probe")
	if p.url.User != nil {
		password, _ := p.url.User.Password()
		req.SetBasicAuth(p.url.User.Username(), password)
	}
	for name, value := range p.spec.Header {
		if strings.EqualFold(name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	return req, nil
}

// judge reads the response. The body is read even when nothing is wanted of it: a server that stalls in the middle of a
// small answer hangs as much as one that never begins.
func (p *httpProbe) judge(resp *http.Response) answer {
	if !p.accepts(resp.StatusCode) {
		return say(Fail, "status %s", resp.Status)
	}
	for _, name := range p.names {
		if !slices.ContainsFunc(resp.Header.Values(name), p.headers[name].MatchString) {
			return say(Fail, "status %s, but header %s is %q", resp.Status, name, resp.Header.Get(name))
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return judge(fmt.Errorf("reading the body after %d bytes: %w", len(body), err))
	}
	if p.body != nil && !p.body.Match(body) {
		return say(Fail, "status %s, but the first %d bytes of the body do not match %q", resp.Status, len(body), p.spec.Body)
	}
	return say(Pass, "status %s", resp.Status)
}

func (p *httpProbe) accepts(code int) bool {
	if len(p.spec.Status) == 0 {
		return code >= 200 && code < 400
	}
	return slices.Contains(p.spec.Status, code)
}
