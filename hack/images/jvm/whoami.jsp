<%@ page contentType="text/plain" import="java.nio.file.*" %><%
    // Not InetAddress.getLocalHost(): the JVM remembers its answer for five seconds.
    String host = Files.readString(Path.of("/proc/sys/kernel/hostname")).trim();
%><%= host %> <%= ProcessHandle.current().pid() %> <%= Thread.activeCount() %>
