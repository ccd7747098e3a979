import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;

/** JDBC: `once`, or one connection kept, and asked whether it is valid before use, as pools do. */
class Jdbc {
    private static String url;
    private static Connection connection;

    public static void main(String[] args) throws Exception {
        String verified = args[2].equals("verify-full") ? "&sslrootcert=" + args[3] : "";
        url = "jdbc:postgresql://localhost:" + args[1] + "/app?user=postgres&sslmode=" + args[2] + verified;
        if (args[0].equals("once")) {
            System.out.println(query(false));
            return;
        }
        boolean checked = args[0].equals("checked");
        System.out.println("ready " + query(checked));
        new BufferedReader(new InputStreamReader(System.in)).readLine();
        for (int i = 0; i < 2; i++) {
            try {
                System.out.println("ok " + query(checked));
            } catch (SQLException error) {
                System.out.println("error " + error.getSQLState() + ": " + error.getMessage());
            }
        }
    }

    private static int query(boolean checked) throws SQLException {
        if (connection == null || (checked && !connection.isValid(5))) {
            connection = DriverManager.getConnection(url);
        }
        try (ResultSet rows = connection.createStatement().executeQuery("SELECT 42")) {
            rows.next();
            return rows.getInt(1);
        }
    }
}
