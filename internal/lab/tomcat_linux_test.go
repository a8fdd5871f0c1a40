package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestTomcatServesHTTPAndAJPInANode(t *testing.T) {
	l := newLab(t, Options{Nodes: []string{"n1"}, Client: true})
	n := l.Node("n1")
	tc, err := Tomcat(n, TomcatOptions{})
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs Tomcat: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p, err := n.Start(ProcOptions{Name: "tomcat", Args: tc.Args, Dir: tc.Dir})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.StartClient(ClientOptions{Target: netip.AddrPortFrom(n.Addr(0), 8080)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			b, _ := os.ReadFile(p.Log)
			t.Logf("%s", b)
		}
	}()
	eventually(t, 30*time.Second, "Tomcat answers", func() bool { return c.AnsweredBy("n1", start) })
	t.Logf("Tomcat answered after %s", time.Since(start))
	var conn net.Conn
	if err := l.Client().Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(n.Addr(0), 8009).String(), time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte{0x12, 0x34, 0, 1, 0x0a}); err != nil {
		t.Fatal(err)
	}
	pong := make([]byte, 5)
	if _, err := io.ReadFull(conn, pong); err != nil || string(pong) != "AB\x00\x01\x09" {
		t.Errorf("AJP ping: % x %v", pong, err)
	}
	web := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = l.Client().Do(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}}}
	asked := time.Now()
	resp, err := web.Get("http://" + netip.AddrPortFrom(n.Addr(0), 8080).String() + TomcatSlow)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if took := time.Since(asked); err != nil || resp.StatusCode != http.StatusOK || string(text) != "slow\n" || took < 3*time.Second {
		t.Errorf("%s answered %s %q after %v, %v", TomcatSlow, resp.Status, text, took, err)
	}
	start = time.Now()
	if err := p.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	t.Logf("Tomcat stopped in %s", time.Since(start))
}
