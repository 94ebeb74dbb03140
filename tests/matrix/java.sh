# The JVM: its heap is one large reservation, committed in parts.
kind="interpreter" packages="default-jdk-headless"
prepare() {
	cat >"$W/M.java" <<-'END'
		import java.util.*;
		public class M { public static void main(String[] x) { Map<Integer, String> m = new TreeMap<>(); for (int i = 0; i < 400000; i++) m.put((int) (i * 7919L % 1000003), "v" + i + i + i); long s = 0; for (var e : m.entrySet()) s = (s * 31 + e.getKey() + e.getValue().hashCode()) % 1000000007; System.out.println(m.size() + " " + s); } }
	END
	javac -d "$W" "$W/M.java"
}
run() { "$@" java -Xmx512m -XX:+UseSerialGC -cp "$W" M; }
