import java.nio.file.Path;
import org.codelibs.opensearch.runner.OpenSearchRunner;

/** One node of OpenSearch in the foreground: OpenSearchServer PORT FOLDER NAME=VALUE... */
public class OpenSearchServer {
    public static void main(String[] words) throws Exception {
        OpenSearchRunner runner = new OpenSearchRunner();
        // Else only ports up to 9299 are allowed.
        runner.setMaxHttpPort(-1);
        runner.onBuild((number, settings) -> {
            settings.put("http.port", words[0]);
            settings.put("network.host", "127.0.0.1");
            // Any free port.
            settings.put("transport.port", "0");
            settings.putList("node.roles", "cluster_manager", "data", "ingest", "remote_cluster_client");
            settings.put("cluster.routing.allocation.disk.threshold_enabled", false);
            settings.put("action.destructive_requires_name", false);
            for (int place = 2; place < words.length; place++) {
                String[] setting = words[place].split("=", 2);
                settings.put(setting[0], setting[1]);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                runner.close();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        try {
            runner.build("-basePath", Path.of(words[1]).toString(), "-numOfNode", "1", "-clusterName", "retl");
        } catch (Throwable error) {
            error.printStackTrace();
            System.exit(1);
        }
        Thread.currentThread().join();
    }
}
