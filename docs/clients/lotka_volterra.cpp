// Lotka-Volterra in C++: a refnode problem on standard input, its answer on standard output. g++ -O2 lotka_volterra.cpp
// Runge-Kutta steps and their transpose, both by hand: the steps given, or else 16384 or so of the classical method.
#include <cmath>
#include <iostream>
#include <map>
#include <valarray>
#include <vector>
using V = std::valarray<double>;
std::map<std::string, std::vector<double>> number;   // by path: number["/loss/data"] holds the rows one after the other
std::map<std::string, std::string> text;             // text["/id"]; of a list, its strings in a row
void read(const std::string& path) {                 // one value of JSON; true, false and null leave nothing behind
  char c, skip;  std::string key;  std::cin >> c;
  if (c == '{' || c == '[') {
    while ((std::cin >> std::ws).peek() != c + 2 && std::cin) {               // } and ] are two after { and [
      if (std::cin.peek() == ',') std::cin >> skip;
      if (c == '{') std::cin >> skip && std::getline(std::cin, key, '"') && std::cin >> skip;
      read(c == '{' ? path + "/" + key : path);
    }
    std::cin >> skip;
  } else if (c == '"') std::getline(std::cin, key, '"') && (text[path] += key).size();
  else if (std::isalpha(c)) while (std::isalpha(std::cin.peek())) std::cin.get();
  else { double x;  std::cin.unget() >> x;  number[path].push_back(x); }
}
V f(const V& y, const V& p) { return {p[0]*y[0] - p[1]*y[0]*y[1], p[3]*y[0]*y[1] - p[2]*y[1]}; }
V f_vjp(const V& y, const V& p, const V& w, V& p_bar) {                       // (df/dy)^T w; adds (df/dp)^T w
  p_bar += V{y[0]*w[0], -y[0]*y[1]*w[0], -y[1]*w[1], y[0]*y[1]*w[1]};
  return {(p[0] - p[1]*y[1])*w[0] + p[3]*y[1]*w[1], -p[1]*y[0]*w[0] + (p[3]*y[0] - p[2])*w[1]};
}
void print(const char* before, const V& x) { for (double v : x) std::cout << before << v, before = ", "; }
int main() {
  read("");  std::cout.precision(17);
  if (text["/rhs/expr"] != "theta[0]*y[0] - theta[1]*y[0]*y[1]theta[3]*y[0]*y[1] - theta[2]*y[1]" || text["/loss/kind"] != "sumsq")
    return std::cerr << "only Lotka-Volterra with squares for a loss, not " << text["/id"] << "\n", 2;
  auto ts = number["/ts"], data = number["/loss/data"], A = number["/solver/tableau/A"], b = number["/solver/tableau/b"];
  auto h = number["/solver/steps"];  const double t0 = number["/t0"][0], t1 = number["/t1"][0];  const bool fixed = h.size();
  if (ts.empty()) ts = {t1};                         // one observation, at the end
  if (!fixed) A = {0, 0, 0, 0, .5, 0, 0, 0, 0, .5, 0, 0, 0, 0, 1, 0},  b = {1/6., 1/3., 1/3., 1/6.};
  for (size_t m = 0; m <= ts.size() && !fixed; m++) {                         // equal steps between observations
    double gap = (m < ts.size() ? ts[m] : t1) - (m ? ts[m-1] : t0), count = std::ceil(16384*gap/(t1 - t0));
    h.insert(h.end(), count, gap/count); }
  const size_t K = ts.size(), s = b.size();  const V p(number["/theta"].data(), 4);  data.resize(2*K);
  std::vector<V> y{V(number["/y0"].data(), 2)}, z, k(s), z_bar(s);  V t(t0, h.size() + 1), ys(2*K), y_bar(2), p_bar(4);
  for (size_t n = 0; n < h.size(); t[n+1] = t[n] + h[n], n++) {
    for (size_t i = 0; i < s; k[i] = f(z.back(), p), i++) {                   // k_i = f(z_i), z_i = y + h sum_j a_ij k_j
      z.push_back(y[n]);  for (size_t j = 0; j < i; j++) z.back() += h[n]*A[i*s+j]*k[j]; }
    y.push_back(y[n]);  for (size_t i = 0; i < s; i++) y.back() += h[n]*b[i]*k[i]; }
  double loss = 0, scale = number["/loss/scale"].empty() ? 1 : number["/loss/scale"][0];
  for (size_t n = h.size() + 1; n-- > 0;) {          // the transpose of the step from t[n], then the observations at t[n]
    for (size_t i = n < h.size() ? s : 0; i-- > 0;) {                         // z_bar_i = (df/dy)^T h (b_i y_bar + sum_j a_ji z_bar_j)
      V w = b[i]*y_bar;  for (size_t j = i + 1; j < s; j++) w += A[j*s+i]*z_bar[j];
      z_bar[i] = f_vjp(z[n*s+i], p, h[n]*w, p_bar); }
    if (n < h.size()) for (const V& v : z_bar) y_bar += v;
    for (size_t m = 0; m < 2*K; m++) if (std::abs(t[n] - ts[m%K]) <= 1e-9*std::abs(t1 - t0)) {
      double r = (ys[m] = y[n][m/K]) - data[m];  loss += scale*r*r;  y_bar[m/K] += scale*2*r; } }
  std::cout << "{\"format\": \"refnode.answer\", \"version\": 1, \"problem_sha256\": \"" << text["/sha256"] << "\", \"truth\": \""
            << (fixed ? "discrete_frozen" : "exact") << "\",\n \"tool\": {\"name\": \"C++ client\"}, \"loss\": " << loss;
  print(",\n \"y\": [[", ys[std::slice(0, K, 1)]);  print("], [", ys[std::slice(K, K, 1)]);
  print("]],\n \"grad\": {\"y0\": [", y_bar);  print("], \"theta\": [", p_bar);  std::cout << "]}}\n";
}
