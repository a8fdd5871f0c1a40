package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// TomcatOptions describes one Tomcat instance in a plain node.
type TomcatOptions struct {
	Home     string   // optional: CATALINA_HOME, /usr/share/tomcat10 as Debian's tomcat10-common has it
	Java     string   // optional: the java program, found in PATH
	Bind     string   // optional: address of both connectors, "0.0.0.0"
	HTTPPort int      // optional: 8080
	AJPPort  int      // optional: 8009
	Secret   string   // optional: of the AJP connector; none required without it (pings never need it)
	Flags    []string // optional: more flags for the JVM
}

// TomcatInstance is a prepared instance.
type TomcatInstance struct {
	Base string   // CATALINA_BASE
	Args []string // command line that runs it in the foreground: the process is the JVM itself
	Dir  string   // working directory
}

// TomcatSlow is a page of a prepared Tomcat that takes three seconds to answer.
const TomcatSlow = "/cgi/slow"

// Tomcat prepares a CATALINA_BASE in the node's var directory. Its root web application answers "node=NAME". It is tuned to
// start fast (1 to 2 s): no JSP compiler, no scan of jars, the first-tier compiler only. An error that wraps os.ErrNotExist
// says that Tomcat or Java is not installed.
func Tomcat(n *Node, o TomcatOptions) (TomcatInstance, error) {
	if o.Home == "" {
		o.Home = "/usr/share/tomcat10"
	}
	if o.Bind == "" {
		o.Bind = "0.0.0.0"
	}
	if o.HTTPPort == 0 {
		o.HTTPPort = 8080
	}
	if o.AJPPort == 0 {
		o.AJPPort = 8009
	}
	bootstrap := filepath.Join(o.Home, "bin/bootstrap.jar")
	if _, err := os.Stat(bootstrap); err != nil {
		return TomcatInstance{}, fmt.Errorf("preparing Tomcat on node %s: %w (package tomcat10)", n.Name, err)
	}
	if o.Java == "" {
		java, err := exec.LookPath("java")
		if err != nil {
			return TomcatInstance{}, fmt.Errorf("preparing Tomcat on node %s: %w (package default-jre-headless): %w", n.Name, os.ErrNotExist, err)
		}
		o.Java = java
	}
	base := n.Path("var", "tomcat")
	secret := `secretRequired="false"`
	if o.Secret != "" {
		secret = `secret="` + xmlAttr.Replace(o.Secret) + `"`
	}
	server := strings.NewReplacer("@BIND@", xmlAttr.Replace(o.Bind), "@HTTP@", strconv.Itoa(o.HTTPPort), "@AJP@", strconv.Itoa(o.AJPPort),
		"@SECRET@", secret, "@ROUTE@", n.Name).Replace(tomcatServerXML)
	var errs []error
	for _, d := range []string{"conf", "logs", "temp", "work", "webapps/ROOT/WEB-INF/cgi", "webapps/ROOT/META-INF"} {
		errs = append(errs, os.MkdirAll(filepath.Join(base, d), 0o755))
	}
	for name, text := range map[string]string{
		"conf/server.xml":                   server,
		"conf/web.xml":                      tomcatWebXML,
		"conf/catalina.properties":          tomcatProperties,
		"webapps/ROOT/index.html":           "node=" + n.Name + "\n",
		"webapps/ROOT/WEB-INF/web.xml":      tomcatAppXML,
		"webapps/ROOT/WEB-INF/cgi/slow":     "sleep 3\nprintf 'Content-Type: text/plain\\r\\n\\r\\nslow\\n'\n",
		"webapps/ROOT/META-INF/context.xml": "<Context privileged=\"true\"/>\n", // the CGI servlet is refused without
	} {
		errs = append(errs, os.WriteFile(filepath.Join(base, name), []byte(text), 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		return TomcatInstance{}, fmt.Errorf("preparing Tomcat on node %s: %w", n.Name, err)
	}
	args := []string{o.Java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx128m", "-Djava.awt.headless=true",
		"-Djava.security.egd=file:/dev/urandom", "-Dcatalina.home=" + o.Home, "-Dcatalina.base=" + base,
		"-Djava.io.tmpdir=" + filepath.Join(base, "temp")}
	args = append(args, o.Flags...)
	args = append(args, "-classpath", bootstrap+":"+filepath.Join(o.Home, "bin/tomcat-juli.jar"), "org.apache.catalina.startup.Bootstrap", "start")
	return TomcatInstance{Base: base, Args: args, Dir: base}, nil
}

var xmlAttr = strings.NewReplacer("&", "&amp;", "<", "&lt;", `"`, "&quot;")

const tomcatServerXML = `<?xml version="1.0" encoding="UTF-8"?>
<Server port="-1">
  <Service name="Catalina">
    <Connector port="@HTTP@" address="@BIND@" protocol="HTTP/1.1" connectionTimeout="20000"/>
    <Connector port="@AJP@" address="@BIND@" protocol="AJP/1.3" @SECRET@/>
    <Engine name="Catalina" defaultHost="localhost" jvmRoute="@ROUTE@">
      <Host name="localhost" appBase="webapps" unpackWARs="false" autoDeploy="false"/>
    </Engine>
  </Service>
</Server>
`

const tomcatWebXML = `<?xml version="1.0" encoding="UTF-8"?>
<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0" metadata-complete="true">
  <servlet>
    <servlet-name>default</servlet-name>
    <servlet-class>org.apache.catalina.servlets.DefaultServlet</servlet-class>
    <load-on-startup>1</load-on-startup>
  </servlet>
  <servlet-mapping><servlet-name>default</servlet-name><url-pattern>/</url-pattern></servlet-mapping>
  <mime-mapping><extension>html</extension><mime-type>text/html</mime-type></mime-mapping>
  <welcome-file-list><welcome-file>index.html</welcome-file></welcome-file-list>
</web-app>
`

// tomcatAppXML has shell scripts answer under /cgi; there is no compiler for pages here.
const tomcatAppXML = `<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0" metadata-complete="true">
  <servlet>
    <servlet-name>cgi</servlet-name>
    <servlet-class>org.apache.catalina.servlets.CGIServlet</servlet-class>
    <init-param><param-name>cgiPathPrefix</param-name><param-value>WEB-INF/cgi</param-value></init-param>
    <init-param><param-name>executable</param-name><param-value>/bin/sh</param-value></init-param>
  </servlet>
  <servlet-mapping><servlet-name>cgi</servlet-name><url-pattern>/cgi/*</url-pattern></servlet-mapping>
</web-app>
`

const tomcatProperties = `common.loader="${catalina.home}/lib","${catalina.home}/lib/*.jar"
server.loader=
shared.loader=
tomcat.util.scan.StandardJarScanFilter.jarsToSkip=*.jar
`
