// swift-tools-version:6.0
import PackageDescription

let package = Package(
    name: "Sottovoce",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [
        .library(name: "SottovoceCore", targets: ["SottovoceCore"]),
        .library(name: "SottovoceCoreML", targets: ["SottovoceCoreML"]),
    ],
    targets: [
        .target(name: "SottovoceCore"),
        .target(name: "SottovoceCoreML", dependencies: ["SottovoceCore"]),
        .testTarget(name: "SottovoceCoreTests", dependencies: ["SottovoceCore"]),
    ],
    swiftLanguageModes: [.v5]
)
