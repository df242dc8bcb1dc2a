import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;

/** 30 MiB up and down with Java's HttpClient and its defaults, all on the connection that it keeps. */
public class Large {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        String base = arguments[0];
        System.out.println(CLIENT.send(
            HttpRequest.newBuilder(URI.create(base + "/api/nfe/envio"))
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[1]))).build(),
            HttpResponse.BodyHandlers.ofByteArray()).statusCode());
        HttpResponse<byte[]> down = get(base + "/v1/nfe-entrada/eventos-nsui/12345678000195/0");
        System.out.println(down.statusCode());
        System.out.println(HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(down.body())));
        for (int time = 0; time < Integer.parseInt(arguments[2]); time++) {
            System.out.println(
                get(base + "/api/nfce/getbychavedeacesso/35000000000000000000000000000000000000000000").statusCode());
        }
    }

    private static HttpResponse<byte[]> get(String url) throws Exception {
        return CLIENT.send(HttpRequest.newBuilder(URI.create(url)).build(), HttpResponse.BodyHandlers.ofByteArray());
    }
}
